package sshgate

import (
	"slices"
	"time"
)

// TimeWindow matches requests at certain hours of certain days, by the clock on
// the wall in Location: when that is put forward or back, so is the window.
type TimeWindow struct {
	// Weekdays are those on which the window begins. None stands for all.
	Weekdays []time.Weekday
	// From and To are hours and minutes since midnight on the wall's clock, To
	// excluded and at most 24h. A window whose To is not after its From ends on the
	// day after.
	From, To time.Duration
	// Location is UTC where it is nil.
	Location *time.Location
}

// Matches implements Selector.
func (s TimeWindow) Matches(r Request) bool {
	if r.Time.IsZero() {
		return false
	}
	location := s.Location
	if location == nil {
		location = time.UTC
	}
	t := r.Time.In(location)
	hour, minute, second := t.Clock()
	clock := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	today := t.Weekday()
	if s.From < s.To {
		return s.on(today) && s.From <= clock && clock < s.To
	}
	yesterday := (today + 6) % 7
	return s.on(today) && s.From <= clock || s.on(yesterday) && clock < s.To
}

func (s TimeWindow) on(day time.Weekday) bool {
	return len(s.Weekdays) == 0 || slices.Contains(s.Weekdays, day)
}
