package install

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxIncludes is how deep sshd follows Include.
const maxIncludes = 16

// setting is where sshd's configuration sets something.
type setting struct {
	file  string
	line  int
	value string
}

// firstSetting finds the line that counts for a keyword, in lower case: the first, in
// the order in which sshd reads its files, see sshd_config(5). It stops at Match in each
// file, as what is below is not for everyone. Nil means that there is none.
func (m *Machine) firstSetting(keyword string) (*setting, error) {
	return m.settingIn(sshdConfig, keyword, 0)
}

func (m *Machine) settingIn(file, keyword string, depth int) (*setting, error) {
	text, err := os.ReadFile(m.path(file))
	if err != nil {
		return nil, err
	}
	for i, line := range strings.Split(string(text), "\n") {
		words := sshdWords(line)
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case keyword:
			return &setting{file, i + 1, words[1]}, nil
		case "match":
			return nil, nil
		case "include":
			if depth == maxIncludes {
				continue
			}
			for _, pattern := range words[1:] {
				if found, err := m.settingInAll(pattern, keyword, depth+1); found != nil || err != nil {
					return found, err
				}
			}
		}
	}
	return nil, nil
}

func (m *Machine) settingInAll(pattern, keyword string, depth int) (*setting, error) {
	files, err := filepath.Glob(m.path(inSSHDir(pattern)))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	for _, file := range files {
		file = "/" + strings.TrimPrefix(strings.TrimPrefix(file, m.Root), "/")
		if found, err := m.settingIn(file, keyword, depth); found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// sshdWords splits a line of sshd_config. An equals sign may follow the keyword, and
// quotes keep spaces in a word.
func sshdWords(line string) []string {
	var words []string
	rest := strings.TrimSpace(line)
	for rest != "" && rest[0] != '#' {
		var word string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			word, rest, _ = strings.Cut(quoted, `"`)
		} else {
			end := strings.IndexAny(rest, " \t")
			if len(words) == 0 {
				end = strings.IndexAny(rest, " \t=")
			}
			if end < 0 {
				end = len(rest)
			}
			word, rest = rest[:end], rest[end:]
		}
		words = append(words, word)
		rest = strings.TrimLeft(rest, " \t\r")
		if len(words) == 1 {
			rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
		}
	}
	return words
}
