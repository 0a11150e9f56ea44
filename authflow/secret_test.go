package authflow

import (
	"bytes"
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"regexp"
	"strings"
	"testing"
)

func TestTokenForm(t *testing.T) {
	form := regexp.MustCompile(`^sgs_[0-9A-Za-z]{49}$`) // as the interface for helpers has it
	seen := make(map[string]bool)
	counts := make(map[rune]int)
	for range 2000 {
		secret, hash := NewSecret()
		sum := sha256.Sum256([]byte(secret))
		if !form.MatchString(secret) || seen[secret] || !bytes.Equal(hash, sum[:]) {
			t.Fatalf("%q, hash %x", secret, hash)
		}
		seen[secret] = true
		for _, digit := range secret[len(secretPrefix) : len(secretPrefix)+randomDigits] {
			counts[digit]++
		}
		got, err := parseToken(secretPrefix, secret)
		if err != nil || !bytes.Equal(got, hash) {
			t.Fatalf("%q: %x, %v", secret, got, err)
		}
	}
	// 86000 digits, some 1387 of each: six standard deviations are 222.
	for _, digit := range base62 {
		if n := counts[digit]; n < 1165 || n > 1609 {
			t.Errorf("%q comes %d times", digit, n)
		}
	}
	if bits := new(big.Int).Exp(big.NewInt(62), big.NewInt(randomDigits), nil).BitLen(); bits <= 256 {
		t.Errorf("%d bits", bits)
	}
}

// TestChecksum pins the digits: scanners outside depend on them.
func TestChecksum(t *testing.T) {
	const text = "sga_0000000000000000000000000000000000000000000"
	want, digits := uint64(crc32.ChecksumIEEE([]byte(text))), uint64(0)
	for _, c := range checksum(text) {
		digits = digits*62 + uint64(strings.IndexRune(base62, c))
	}
	if digits != want || len(checksum(text)) != 6 {
		t.Errorf("%s is %d, want %d", checksum(text), digits, want)
	}
	if got := checksum(text); got != "1nTANr" {
		t.Errorf("got %s", got)
	}
}

func TestParseTokenRefuses(t *testing.T) {
	good, _ := NewSecret()
	swapped := []byte(good)
	at := len(secretPrefix)
	for swapped[at] == swapped[at+1] {
		at++
	}
	swapped[at], swapped[at+1] = swapped[at+1], swapped[at]
	for name, bad := range map[string]string{
		"nothing":          "",
		"the prefix":       secretPrefix,
		"another kind":     newToken(accessPrefix),
		"its prefix alone": accessPrefix + good[len(secretPrefix):],
		"capitals":         strings.ToUpper(good),
		"cut":              good[:len(good)-1],
		"longer":           good + "0",
		"space around":     good + " ",
		"a newline":        good + "\n",
		"swapped":          string(swapped),
		"a sign in it":     good[:10] + "-" + good[11:],
		"a byte past 127":  good[:10] + "\xff" + good[11:],
		"huge":             secretPrefix + strings.Repeat("0", 1<<20),
	} {
		if hash, err := parseToken(secretPrefix, bad); err == nil {
			t.Errorf("%s: taken as %x", name, hash)
		} else if bad != "" && len(bad) > 20 && strings.Contains(err.Error(), bad[10:20]) {
			t.Errorf("%s: the error quotes it: %v", name, err)
		}
	}
	// Every single wrong character is noticed.
	for i := range good {
		for _, c := range []byte("aZ9_") {
			if typo := good[:i] + string(c) + good[i+1:]; typo != good {
				if _, err := parseToken(secretPrefix, typo); err == nil {
					t.Errorf("%q passes for %q", typo, good)
				}
			}
		}
	}
}

func TestSameHash(t *testing.T) {
	a, b := hashToken("a"), hashToken("b")
	for _, test := range []struct {
		got, want []byte
		same      bool
	}{{a, a, true}, {a, b, false}, {a, nil, false}, {nil, nil, false}, {[]byte{}, []byte{}, false}, {a[:31], a[:31], false}} {
		if same := sameHash(test.got, test.want); same != test.same {
			t.Errorf("%x, %x: %v", test.got, test.want, same)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(accessPrefix))
	f.Add("sga_")
	f.Fuzz(func(t *testing.T, token string) {
		hash, err := parseToken(accessPrefix, token)
		if err == nil && (len(token) != 53 || len(hash) != 32 || !allPrintable(token)) {
			t.Errorf("%q was taken", token)
		}
	})
}
