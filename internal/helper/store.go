package helper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Store is the user's configuration directory: which gateway is the default, its
// CA, the tokens, keys and certificates. Everything in it is the user's alone.
type Store struct {
	Dir     string
	Keyring Keyring   // nil: tokens are kept in files
	Warn    io.Writer // gets a line where something had to be healed
}

// OpenStore returns the store in SSHGATE_CONFIG_DIR or the system's place for
// configurations. Nothing is made before something is kept.
func OpenStore(getenv func(string) string, warn io.Writer) (*Store, error) {
	dir := getenv("SSHGATE_CONFIG_DIR")
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return nil, usage("there is no place for the configuration (%v); set SSHGATE_CONFIG_DIR", err)
		}
		dir = filepath.Join(base, "sshgate")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Store{Dir: dir, Keyring: systemKeyring(getenv), Warn: warn}, nil
}

// Token is an access token that is kept.
type Token struct {
	Value     string    `json:"access_token"`
	Identity  string    `json:"identity"`
	ExpiresAt time.Time `json:"expires_at"`
}

// good tells that the token has not expired, with a little time to use it.
func (t Token) good(now time.Time) bool {
	return t.Value != "" && now.Add(10*time.Second).Before(t.ExpiresAt)
}

// For returns the place of one gateway.
func (s *Store) For(address string) *Place {
	// A host and a port have no separators of paths; on some systems a colon is one.
	return &Place{store: s, name: address, dir: filepath.Join(s.Dir, strings.NewReplacer(":", "_", "[", "", "]", "").Replace(address))}
}

// Place is what the store has of one gateway.
type Place struct {
	store *Store
	name  string
	dir   string
}

const (
	tokenFile   = "token.json"
	caFile      = "gateway-ca.crt"
	lockFile    = "login.lock"
	promptFile  = "login.json"
	defaultFile = "config.json"
	maxFile     = 1 << 20 // bytes
)

// Token returns the token that is kept, the zero Token where there is none.
func (p *Place) Token() Token {
	var t Token
	if p.store.Keyring != nil {
		text, err := p.store.Keyring.Get(p.name)
		if err == nil && json.Unmarshal([]byte(text), &t) == nil {
			return t
		}
	}
	p.store.read(filepath.Join(p.dir, tokenFile), &t)
	return t
}

// Keep keeps the token, in the keyring where that works and otherwise in a file.
func (p *Place) Keep(t Token) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	file := filepath.Join(p.dir, tokenFile)
	if p.store.Keyring != nil && p.store.Keyring.Set(p.name, string(data)) == nil {
		_ = os.Remove(file) // of a time without a keyring
		return nil
	}
	return writeFile(file, data)
}

// Forget removes the token. It tells whether there was one.
func (p *Place) Forget() (bool, error) {
	found := false
	if p.store.Keyring != nil {
		found = p.store.Keyring.Delete(p.name) == nil
	}
	err := os.Remove(filepath.Join(p.dir, tokenFile))
	if err == nil {
		found = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	return found, nil
}

// CA returns the CA that was given for the gateway, empty where none was.
func (p *Place) CA() []byte {
	data, _ := readFile(filepath.Join(p.dir, caFile)) // none is an answer
	return data
}

// KeepCA remembers the CA.
func (p *Place) KeepCA(pem []byte) error { return writeFile(filepath.Join(p.dir, caFile), pem) }

// defaults is what access login remembers.
type defaults struct {
	Gateway string `json:"gateway"`
}

// Default returns the gateway of the last login, "" where there was none.
func (s *Store) Default() string {
	var d defaults
	s.read(filepath.Join(s.Dir, defaultFile), &d)
	return d.Gateway
}

// SetDefault remembers the gateway.
func (s *Store) SetDefault(address string) error {
	data, err := json.Marshal(defaults{Gateway: address})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.Dir, defaultFile), data)
}

// Gateways returns the names of the directories of gateways.
func (s *Store) Gateways() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if at := strings.LastIndexByte(e.Name(), '_'); e.IsDir() && at > 0 {
			names = append(names, e.Name()[:at]+":"+e.Name()[at+1:])
		}
	}
	return names, err
}

// read decodes a file. One that cannot be is put aside: a helper that is killed, or
// a full disk, must not keep its user out for good.
func (s *Store) read(file string, v any) {
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err == nil {
		return
	}
	aside := file + ".broken"
	if os.Rename(file, aside) == nil {
		fmt.Fprintf(s.Warn, "sshgate: %s could not be read (%v) and was moved to %s\n", file, err, aside)
	}
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// writeFile replaces a file as a whole, with mode 0600 in directories of 0700.
func writeFile(file string, data []byte) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return os.Rename(tmp.Name(), file)
}

// lock is a lock between processes. The kernel gives it back when its holder is
// gone, however it went.
type lock struct{ file *os.File }

// openLock returns the lock at path, not taken yet. unlock gives it back.
func openLock(path string) (*lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &lock{f}, nil
}

// try takes the lock if nobody has it.
func (l *lock) try() bool {
	return syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// wait takes the lock when its holder gives it back.
func (l *lock) wait() error {
	for {
		err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (l *lock) unlock() { l.file.Close() }
