package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program prints what the help of a program looks like that has two commands, and
// those that cobra brings along.
const program = `#!/bin/sh
case "$*" in
--help)
	cat <<'END'
prog is a program. It's
.here for the test.

Environment:
  PROG_DIR   where
  
Exit codes: 0 all is well,
1 it failed.

Usage:
  prog [command]

Available Commands:
  completion  Generate the autocompletion script
  do-it       Do it
  help        Help about any command
  more        Do more

Flags:
  -h, --help   help for prog

Use "prog [command] --help" for more information about a command.
END
	;;
"do-it --help" | "more --help")
	printf 'Do it, as follows:\n\nUsage:\n  prog %s\n' "$1"
	;;
*)
	exit 1
	;;
esac
`

const wantProgram = `.TH "PROG" "8" "1970-01-02"
.nh
.SH NAME
prog \- a program
.SH SYNOPSIS
.nf
  prog [command]
.fi
.SH DESCRIPTION
.nf
prog is a program. It\(aqs
\&.here for the test.
.fi
.SH ENVIRONMENT
.nf
  PROG_DIR   where
.fi
.SH EXIT STATUS
.nf
0 all is well,
1 it failed.
.fi
.SH COMMANDS
.nf
  completion  Generate the autocompletion script
  do\-it       Do it
  help        Help about any command
  more        Do more
.fi
.SH OPTIONS
.nf
  \-h, \-\-help   help for prog
.fi
.SH SEE ALSO
\fBprog\-do\-it\fR(8),
\fBprog\-more\fR(8)
`

const wantCommand = `.TH "PROG-DO-IT" "8" "1970-01-02"
.nh
.SH NAME
prog\-do\-it \- Do it
.SH SYNOPSIS
.nf
  prog do\-it
.fi
.SH DESCRIPTION
.nf
Do it, as follows:
.fi
.SH SEE ALSO
\fBprog\fR(8)
`

func TestPages(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	if code := run([]string{path, "8", dir}, "86400", &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for name, want := range map[string]string{"prog.8": wantProgram, "prog-do-it.8": wantCommand} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if pages, _ := os.ReadDir(dir); len(pages) != 3 {
		t.Errorf("there are %d pages, want 3", len(pages))
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		args  []string
		epoch string
		code  int
		want  string
	}{
		{nil, "", 2, "usage"},
		{[]string{"false", "8", "."}, "", 1, "run false --help"},
		{[]string{"false", "8", "."}, "yesterday", 2, "SOURCE_DATE_EPOCH"},
	} {
		var stderr strings.Builder
		if code := run(test.args, test.epoch, &stderr); code != test.code || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%q: exit code %d, %q; want %d and %q", test.args, code, stderr.String(), test.code, test.want)
		}
	}
}
