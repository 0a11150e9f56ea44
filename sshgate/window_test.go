package sshgate_test

import (
	"testing"
	"time"

	_ "time/tzdata"

	"github.com/sshgate/sshgate/sshgate"
)

func TestTimeWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const h, m = time.Hour, time.Minute
	weekdays := []time.Weekday{1, 2, 3, 4, 5}
	office := sshgate.TimeWindow{Weekdays: weekdays, From: 8 * h, To: 18 * h, Location: berlin}
	night := sshgate.TimeWindow{Weekdays: []time.Weekday{time.Friday}, From: 22 * h, To: 6 * h, Location: berlin}
	small := sshgate.TimeWindow{From: 2*h + 15*m, To: 2*h + 45*m, Location: berlin}
	for _, tt := range []struct {
		name   string
		window sshgate.TimeWindow
		at     string // UTC
		want   bool
	}{
		{"winter, before", office, "2026-01-05T06:59:59Z", false},
		{"winter, from", office, "2026-01-05T07:00:00Z", true},
		{"winter, to", office, "2026-01-05T16:59:59Z", true},
		{"winter, after", office, "2026-01-05T17:00:00Z", false},
		{"summer, before", office, "2026-07-06T05:59:59Z", false},
		{"summer, from", office, "2026-07-06T06:00:00Z", true},
		{"summer, after", office, "2026-07-06T16:00:00Z", false},
		{"a Sunday", office, "2026-07-05T10:00:00Z", false},
		{"Monday there, Sunday in UTC", sshgate.TimeWindow{Weekdays: weekdays, To: 24 * h, Location: berlin}, "2026-07-05T22:30:00Z", true},
		{"Saturday there, Friday in UTC", sshgate.TimeWindow{Weekdays: weekdays, To: 24 * h, Location: berlin}, "2026-07-10T22:00:00Z", false},

		{"over midnight, before", night, "2026-07-10T19:59:59Z", false},
		{"over midnight, the evening", night, "2026-07-10T20:00:00Z", true},
		{"over midnight, the morning after", night, "2026-07-11T03:59:59Z", true},
		{"over midnight, its end", night, "2026-07-11T04:00:00Z", false},
		{"over midnight, the morning of that day", night, "2026-07-10T03:00:00Z", false},
		{"over midnight, the next evening", night, "2026-07-11T21:00:00Z", false},
		{"over midnight, clocks put forward", night, "2026-03-28T03:59:59Z", true}, // the day before they are

		{"the hour that is left out", small, "2026-03-29T01:20:00Z", false}, // 03:20
		{"just before it", small, "2026-03-29T00:59:59Z", false},            // 01:59:59
		{"the hour that comes twice, first", small, "2026-10-25T00:20:00Z", true},
		{"the hour that comes twice, second", small, "2026-10-25T01:20:00Z", true},
		{"between the two", small, "2026-10-25T00:50:00Z", false},
		{"after both", small, "2026-10-25T02:20:00Z", false},

		{"always", sshgate.TimeWindow{To: 24 * h}, "2026-07-10T23:59:59Z", true},
		{"as long as the clock goes round", sshgate.TimeWindow{From: 9 * h, To: 9 * h}, "2026-07-10T08:00:00Z", true},
		{"UTC where none is named", sshgate.TimeWindow{From: 12 * h, To: 13 * h}, "2026-07-10T12:30:00Z", true},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := tt.window.Matches(sshgate.Request{Time: at}); got != tt.want {
			t.Errorf("%s: %v at %v, want %v", tt.name, got, at.In(berlin), tt.want)
		}
	}
	if (sshgate.TimeWindow{To: 24 * h}).Matches(sshgate.Request{}) {
		t.Error("a request without a time is in a window")
	}
}
