package sshgate_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

// The properties are drawn from a small world, so that patterns overlap, rules
// collide and every selector matches somebody and misses somebody.

var (
	worldOrigins  = []string{"web1", "db1.lab.example.com", "a.b.lab.example.com", "lab.example.com", "x.example.com"}
	worldPatterns = []string{"*", "web1", "*.example.com", "*.lab.example.com", "db1.lab.example.com", "*.b.lab.example.com", "lab.example.com"}
	worldLogins   = []string{"", "root", "deploy", "al", "1000"}
	worldClaims   = []any{nil, "al", "root", "1000", "al@example.com", 7.0, []any{"al", "x"}}
	worldGroups   = map[string][]sshgate.Selector{
		"staff":  {sshgate.Group{"ops"}, sshgate.PolicyGroup("strong")},
		"strong": {sshgate.ACR{"phr"}},
		"loop":   {sshgate.PolicyGroup("loop")},
	}
)

// trait is a selector together with a second, independent way to say whom it
// matches: y, n, or ? where that cannot be told.
type trait struct {
	selector sshgate.Selector
	fits     func(sshgate.Request) byte
	// stronger tells that another sign-in can make it match.
	stronger bool
}

func when(b bool) byte {
	if b {
		return 'y'
	}
	return 'n'
}

func hasClaim(r sshgate.Request, name, value string) bool {
	return strings.Contains(" "+strings.Trim(fmt.Sprint(r.Identity.Claims[name]), "[]")+" ", " "+value+" ")
}

func hasGroup(r sshgate.Request, name string) bool {
	return strings.Contains(strings.Join(r.Identity.Groups, ","), name)
}

var everyone = trait{selector: sshgate.Everyone{}, fits: func(sshgate.Request) byte { return 'y' }}

var traits = []trait{
	everyone,
	{selector: sshgate.Group{"ops"}, fits: func(r sshgate.Request) byte { return when(hasGroup(r, "ops")) }},
	{selector: sshgate.Group{"dev", "none"}, fits: func(r sshgate.Request) byte { return when(hasGroup(r, "dev")) }},
	{selector: sshgate.Email{"A@Example.com"}, fits: func(r sshgate.Request) byte {
		return when(r.Identity.EmailVerified && r.Identity.Email == "a@example.com")
	}},
	{selector: sshgate.EmailDomain{"example.com"}, fits: func(r sshgate.Request) byte {
		return when(r.Identity.EmailVerified && strings.HasSuffix(r.Identity.Email, "@example.com"))
	}},
	{selector: sshgate.Claim{Path: "unix", Values: []string{"al", "7"}}, fits: func(r sshgate.Request) byte {
		return when(slices.Contains([]string{"al", "7", "[al x]"}, fmt.Sprint(r.Identity.Claims["unix"])))
	}},
	{selector: sshgate.Address{netip.MustParsePrefix("10.0.0.0/8")}, fits: func(r sshgate.Request) byte {
		return when(strings.Contains(r.ClientAddr.String(), "10."))
	}},
	{selector: sshgate.ACR{"phr", "phrh"}, stronger: true, fits: func(r sshgate.Request) byte {
		return when(hasClaim(r, "acr", "phr") || hasClaim(r, "acr", "phrh"))
	}},
	{selector: sshgate.AMR{"hwk"}, stronger: true, fits: func(r sshgate.Request) byte { return when(hasClaim(r, "amr", "hwk")) }},
	{selector: sshgate.Country{"DE", "AT"}, fits: func(r sshgate.Request) byte { return when(strings.Contains("DE AT", r.Country) && r.Country != "") }},
	{selector: sshgate.KeyType{Types: []string{"hardware"}, Touched: true}, fits: func(r sshgate.Request) byte {
		return when(strings.HasSuffix(r.Key.Type, "@openssh.com") && r.Key.Touched)
	}},
	{selector: sshgate.TimeWindow{Weekdays: []time.Weekday{time.Monday}, From: 22 * time.Hour, To: 6 * time.Hour}, fits: func(r sshgate.Request) byte {
		return when(!r.Time.Before(noon.Add(10*time.Hour)) && r.Time.Before(noon.Add(18*time.Hour))) // noon is on a Monday
	}},
	{selector: sshgate.ServiceTokenNamed{"backup"}, fits: func(r sshgate.Request) byte { return when(r.Identity.String() == "service-token:backup") }},
	{selector: sshgate.PolicyGroup("staff"), stronger: true, fits: func(r sshgate.Request) byte {
		return when(hasGroup(r, "ops") || hasClaim(r, "acr", "phr"))
	}},
	{selector: sshgate.PolicyGroup("loop"), fits: func(sshgate.Request) byte { return '?' }},
	{selector: sshgate.PolicyGroup("gone"), fits: func(sshgate.Request) byte { return '?' }},
}

// conditions are those that a rule may have, by their text.
var conditions = []string{"", "", "", "", "", "", "holds", "does not", "fails", "on web1"}

type testCondition string

func (c testCondition) String() string { return string(c) }

func (c testCondition) Holds(r sshgate.Request) (bool, error) {
	switch c {
	case "holds":
		return true, nil
	case "fails":
		return true, errors.New("no such claim")
	case "on web1":
		return r.Target.Origin == "web1", nil
	}
	return false, nil
}

// worldActivities are what is asked for, by a name for limits.
var worldActivities = map[string]func(*sshgate.Request){
	"open":    func(*sshgate.Request) {},
	"shell":   func(r *sshgate.Request) { r.Activity.Kind = sshgate.ActivityShell },
	"uptime":  func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("uptime -p") },
	"evil":    func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("uptime; id") },
	"sftp":    func(r *sshgate.Request) { r.Activity = sshgate.ParseSubsystem("sftp") },
	"netconf": func(r *sshgate.Request) { r.Activity = sshgate.ParseSubsystem("netconf") },
	"get":     func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("scp -f /tmp/x") },
	"put":     func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("scp -r -t /tmp/x") },
	"fetch":   func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("git-upload-pack 'acme/app.git'") },
	"push":    func(r *sshgate.Request) { r.Activity = sshgate.ParseCommand("git-receive-pack 'acme/app.git'") },
	"agent":   func(r *sshgate.Request) { r.Activity.Kind = sshgate.ActivityAgent },
	"x11":     func(r *sshgate.Request) { r.Activity.Kind = sshgate.ActivityX11 },
	"db": func(r *sshgate.Request) {
		r.Channel, r.Activity = sshgate.ChannelForward, sshgate.Activity{Kind: sshgate.ActivityForward, Destination: "db:5432"}
	},
	"other": func(r *sshgate.Request) {
		r.Channel, r.Activity = sshgate.ChannelForward, sshgate.Activity{Destination: "10.1.1.1:22"}
	},
	"socket": func(r *sshgate.Request) {
		r.Channel, r.Activity = sshgate.ChannelUnix, sshgate.Activity{Kind: sshgate.ActivityUnix, Destination: "/run/a/b.sock"}
	},
	"listen": func(r *sshgate.Request) { r.Channel, r.Activity.Kind = sshgate.ChannelListen, sshgate.ActivityListen },
	"jump":   func(r *sshgate.Request) { r.Channel = sshgate.ChannelEndToEnd },
	"tcp":    func(r *sshgate.Request) { r.Channel, r.Port = sshgate.ChannelTCP, 5432 },
}

// limit is what a rule may have for channels, with the names of all activities
// that it allows.
type limit struct {
	channels *sshgate.Channels
	allows   string
}

var limits = []limit{
	{nil, "open shell uptime evil sftp netconf get put fetch push agent x11 db other socket listen"},
	{&sshgate.Channels{}, ""},
	{&sshgate.Channels{Shell: true, Agent: true}, "open shell agent"},
	{&sshgate.Channels{Exec: []sshgate.CommandPattern{"uptime *"}}, "open uptime"},
	{&sshgate.Channels{Exec: []sshgate.CommandPattern{"*"}}, "open uptime evil get put fetch push"},
	{&sshgate.Channels{SFTP: sshgate.Transfer{Read: true}, SCP: sshgate.Transfer{Read: true}}, "open sftp get"},
	{&sshgate.Channels{SFTP: sshgate.Transfer{Write: true}, SCP: sshgate.Transfer{Write: true}, X11: true}, "open sftp put x11"},
	{&sshgate.Channels{Git: sshgate.GitAccess{Read: []sshgate.PathPattern{"acme/*"}, Write: []sshgate.PathPattern{"/acme/*"}}}, "open fetch"},
	{&sshgate.Channels{Git: sshgate.GitAccess{Write: []sshgate.PathPattern{"**"}}, Subsystems: []string{"netconf"}}, "open push netconf"},
	{&sshgate.Channels{Forward: []sshgate.DestinationPattern{mustDestination("*:5432")}, Listen: true}, "db listen"},
	{&sshgate.Channels{Forward: []sshgate.DestinationPattern{mustDestination("10.0.0.0/8:*")}, Unix: []sshgate.PathPattern{"/run/*"}}, "other"},
	{&sshgate.Channels{Unix: []sshgate.PathPattern{"/run/**"}}, "socket"},
}

func mustDestination(s string) sshgate.DestinationPattern {
	p, err := sshgate.ParseDestinationPattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

// drawTraits returns few of them most of the time, so that rules match.
func drawTraits(t *rapid.T, name string, usual ...trait) []trait {
	if rapid.IntRange(0, 2).Draw(t, name+" as usual") > 0 {
		return usual
	}
	return rapid.SliceOfN(rapid.SampledFrom(traits), 0, 2).Draw(t, name)
}

func drawDuration(t *rapid.T, name string) time.Duration {
	return rapid.SampledFrom([]time.Duration{0, 0, 0, 30 * time.Minute, 2 * time.Hour}).Draw(t, name)
}

// drawRequest returns what all requests of one draw have in common.
func drawRequest(t *rapid.T) sshgate.Request {
	now := rapid.SampledFrom([]time.Time{noon, noon.Add(10 * time.Hour), noon.Add(18 * time.Hour)}).Draw(t, "time")
	r := sshgate.Request{
		Identity: sshgate.Identity{
			Issuer: "https://idp.example.com", Subject: "1",
			Email:         rapid.SampledFrom([]string{"", "a@example.com", "b@example.com", "a@lab.example.com"}).Draw(t, "email"),
			EmailVerified: rapid.Bool().Draw(t, "verified"),
			Groups:        rapid.SampledFrom([][]string{nil, {"ops"}, {"dev"}, {"dev", "ops"}}).Draw(t, "groups"),
			Claims: map[string]any{
				"unix":      rapid.SampledFrom(worldClaims).Draw(t, "unix"),
				"acr":       rapid.SampledFrom([]any{nil, "pwd", "phr", "phrh"}).Draw(t, "acr"),
				"amr":       rapid.SampledFrom([]any{nil, []any{"pwd"}, []any{"pwd", "hwk"}}).Draw(t, "amr"),
				"auth_time": rapid.SampledFrom([]any{nil, nil, float64(now.Add(-3 * time.Hour).Unix())}).Draw(t, "auth_time"),
			},
			SignedInAt: now.Add(-rapid.SampledFrom([]time.Duration{0, 0, 0, 30 * time.Minute, time.Hour, 5 * time.Hour}).Draw(t, "age")),
		},
		ClientAddr: netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.1.1", "::ffff:10.1.1.1", "192.0.2.1", "2001:db8::1"}).Draw(t, "address")),
		Time:       now,
		Country:    rapid.SampledFrom([]string{"", "DE", "FR"}).Draw(t, "country"),
		Purpose:    rapid.SampledFrom([]string{"", " ", "INC-1"}).Draw(t, "purpose"),
		Key: sshgate.Key{
			Type:    rapid.SampledFrom([]string{"", "ssh-ed25519", "sk-ssh-ed25519@openssh.com"}).Draw(t, "key"),
			Touched: rapid.Bool().Draw(t, "touched"),
		},
	}
	if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
		r.Identity.Kind, r.Identity.Name = sshgate.ServiceToken, rapid.SampledFrom([]string{"backup", "other"}).Draw(t, "token")
		r.Identity.Email, r.Identity.Groups = "", nil // machines have neither
	}
	if rapid.IntRange(0, 3).Draw(t, "running") == 0 {
		r.Opened = now.Add(-4 * time.Hour)
	}
	return r
}

// question is one of the requests of a draw, and the name of its activity.
type question struct {
	sshgate.Request
	activity string
}

// forAll calls f with requests for every activity of the world.
func forAll(t *rapid.T, f func(question)) {
	common := drawRequest(t)
	origins := rapid.SliceOfNDistinct(rapid.SampledFrom(worldOrigins), 1, 2, rapid.ID[string]).Draw(t, "origins")
	logins := append(rapid.SliceOfNDistinct(rapid.SampledFrom(worldLogins[1:]), 1, 2, rapid.ID[string]).Draw(t, "logins"), "")
	for _, name := range activityNames {
		for _, origin := range origins {
			for _, login := range logins {
				r := common
				r.Target = sshgate.Target{Login: sshgate.Login(login), Origin: sshgate.OriginName(origin)}
				r.Channel = sshgate.ChannelSession
				worldActivities[name](&r)
				f(question{r, name})
			}
		}
	}
}

var activityNames = func() []string {
	var names []string
	for name := range worldActivities {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}()
