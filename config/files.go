package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxSecret is the longest secret that a file may hold, in bytes.
const maxSecret = 16 << 10

// name decodes a single value that is the name of something.
func (c cursor) name() (string, bool) {
	var name string
	text(&name)(c)
	return name, name != ""
}

// filePath decodes a path and makes it absolute.
func (c cursor) filePath() (string, bool) {
	name, ok := c.name()
	if !ok || filepath.IsAbs(name) {
		return filepath.Clean(name), ok
	}
	return filepath.Join(c.doc.dir, name), true
}

// directory decodes the path of a directory, which need not exist yet.
func directory(dst *string) func(cursor) {
	return func(c cursor) {
		path, ok := c.filePath()
		if !ok {
			return
		}
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			c.problem("%s is not a directory", path)
			return
		}
		*dst = path
	}
}

// publicFile decodes the path of a file that must be there.
func publicFile(dst *string) func(cursor) {
	return inputFile(dst, func(string, os.FileInfo) error { return nil })
}

// secretFile decodes the path of a file that must be there and belong to its
// owner alone.
func secretFile(dst *string) func(cursor) {
	return inputFile(dst, func(path string, info os.FileInfo) error {
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return fmt.Errorf("%s is open to other users (mode %04o); run chmod 600 %s", path, mode, path)
		}
		return nil
	})
}

func inputFile(dst *string, check func(path string, info os.FileInfo) error) func(cursor) {
	return func(c cursor) {
		path, ok := c.filePath()
		if !ok {
			return
		}
		if err := checkFile(path, check); err != nil {
			c.problem("%v", err)
			return
		}
		*dst = path
	}
}

func checkFile(path string, check func(path string, info os.FileInfo) error) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no file %s", path)
	case err != nil:
		return err // names the path
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	return check(path, info)
}

// tooLarge says that a file has more bytes than most.
func tooLarge(path string, info os.FileInfo, most int64) error {
	if info.Size() > most {
		return fmt.Errorf("%s is larger than %d MiB", path, most>>20)
	}
	return nil
}

// secretFromFile decodes the path of a secret file and reads it. White space at
// the end of the file does not belong to the secret.
func secretFromFile(dst *Secret) func(cursor) {
	return func(c cursor) {
		var path string
		secretFile(&path)(c)
		if path == "" {
			return
		}
		value, err := readSecret(path)
		if err != nil {
			c.problem("%v", err)
			return
		}
		*dst = Secret{value: value}
	}
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err // names the path
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	if len(data) > maxSecret {
		return "", fmt.Errorf("%s is larger than %d KiB; expected a secret alone", path, maxSecret>>10)
	}
	value := bytes.TrimRight(data, " \t\r\n")
	if len(value) == 0 {
		return "", fmt.Errorf("%s is empty; expected a secret", path)
	}
	return string(value), nil
}

// secretFromEnv decodes the name of an environment variable and reads it. A
// name that can not be one is not repeated: it may be the secret itself.
func secretFromEnv(dst *Secret) func(cursor) {
	return func(c cursor) {
		name, ok := c.name()
		if !ok {
			return
		}
		if !variablePattern.MatchString(name) {
			c.problem("is not the name of an environment variable; expected one as in OIDC_CLIENT_SECRET")
			return
		}
		value := c.doc.env(name)
		if value == "" {
			c.problem("the environment variable %s is not set or empty", name)
			return
		}
		*dst = Secret{value: value}
	}
}
