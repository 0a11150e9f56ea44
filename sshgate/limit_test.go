package sshgate

import (
	"testing"
	"time"
)

func FuzzParseStartups(f *testing.F) {
	for _, text := range []string{"300:30:1000", "5", "1:100:1", "0", "1:2", "9:30:8", "1:101:2", " 1", "+1:1:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseStartups(text)
		if err != nil {
			if s != (Startups{}) || len(err.Error()) > 300 {
				t.Errorf("%q: %+v, %v", text, s, err)
			}
			return
		}
		if again, err := ParseStartups(s.String()); again != s || err != nil {
			t.Errorf("%q reads as %v, which reads as %v, %v", text, s, again, err)
		}
		last := -1
		for n := range min(s.Full, 2000) + 1 {
			chance := 0
			for chance < 100 && s.Refuses(n, chance) {
				chance++
			}
			if chance < last || n < s.Start && chance != 0 || n == s.Full && chance != 100 {
				t.Fatalf("%v: %d percent at %d, %d before", s, chance, n, last)
			}
			last = chance
		}
	})
}

func FuzzParseRate(f *testing.F) {
	for _, text := range []string{"60/1m", "1/1s", "1000000/24h", "0/1s", "1/0s", "1/-1s", "1", "x/1m", "1/1m/1m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRate(text)
		if err != nil {
			if r != (Rate{}) || len(err.Error()) > 300 {
				t.Errorf("%q: %+v, %v", text, r, err)
			}
			return
		}
		if again, err := ParseRate(r.String()); again != r || err != nil {
			t.Errorf("%q reads as %v, which reads as %v, %v", text, r, again, err)
		}
		if r.Each() <= 0 || r.Each() > 24*time.Hour {
			t.Errorf("%q: one in %v", text, r.Each())
		}
	})
}

func TestLimitsAreNamedOnce(t *testing.T) {
	seen := map[Limit]bool{}
	for _, limit := range Limits() {
		if limit == "" || seen[limit] {
			t.Errorf("%q", limit)
		}
		seen[limit] = true
	}
}
