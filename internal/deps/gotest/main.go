// Command gotest runs "go test" with its arguments, shows what failed, and says
// loudly what was skipped, which go test itself passes over in silence.
//
// It exits with 1 when a test failed, and when one was skipped while the
// environment variable CI is set: there, everything has to run, except what the
// test itself calls "impossible here", as networks are without root.
//
// Of what tests that passed have logged it shows the lines that begin with
// "measured: ".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Getenv("CI") != "", os.Stdout, os.Stderr)) }

// run runs go test with args and returns the exit code.
func run(args []string, skipsFail bool, stdout, stderr io.Writer) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, "run go test:", err)
		return 1
	}
	s := &summary{out: stdout, pending: make(map[testID]*strings.Builder)}
	readErr := s.read(out)
	if readErr != nil {
		fmt.Fprintln(stderr, "read the output of go test:", readErr)
		_, _ = io.Copy(io.Discard, out) // lets go test end; what fails here fails Wait too
	}
	err = cmd.Wait()
	s.print()
	if err != nil || readErr != nil || skipsFail && s.avoidable {
		return 1
	}
	return 0
}

// event is a line of "go test -json", see "go doc test2json".
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64 // seconds
}

type testID struct{ pkg, test string }

// summary collects what go test reports.
type summary struct {
	out     io.Writer
	pending map[testID]*strings.Builder // output of tests that have not ended
	passed  int
	failed  int
	skipped []string // with the reason

	avoidable bool // one of them could have run on this machine
}

// read prints the output of what fails, and a line for each package.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(s.out, "%s", line)
		return
	}
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		if s.pending[id] == nil {
			s.pending[id] = new(strings.Builder)
		}
		s.pending[id].WriteString(e.Output)
	case "pass", "fail", "skip":
		s.end(e, s.take(id))
	}
}

// take returns the output of a test that has ended.
func (s *summary) take(id testID) string {
	b := s.pending[id]
	delete(s.pending, id)
	if b == nil {
		return ""
	}
	return b.String()
}

// end counts a test, or prints the line of a package.
func (s *summary) end(e event, output string) {
	switch {
	case e.Action == "fail":
		fmt.Fprint(s.out, output)
		if e.Test != "" {
			s.failed++
		}
	case e.Test == "" && e.Action == "skip": // a package without tests
	case e.Test == "":
		fmt.Fprintf(s.out, "ok   %s  %.1fs\n", e.Package, e.Elapsed)
	case e.Action == "pass":
		s.passed++
		for line := range strings.Lines(output) {
			if _, what, ok := strings.Cut(line, ": measured: "); ok {
				fmt.Fprintf(s.out, "%s: %s", e.Test, what)
			}
		}
	case e.Action == "skip":
		why := reason(output)
		s.skipped = append(s.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, why))
		s.avoidable = s.avoidable || !strings.Contains(why, "impossible here: ")
	}
}

// reason returns what a skipped test said.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}

// print prints the summary. Tests that never ended, as in a panic or a timeout,
// count as failed and have their output shown.
func (s *summary) print() {
	for id, output := range s.pending {
		if id.test != "" {
			fmt.Fprintf(s.out, "did not end: %s %s\n%s", id.pkg, id.test, output)
			s.failed++
		}
	}
	if len(s.skipped) > 0 {
		slices.Sort(s.skipped)
		fmt.Fprintf(s.out, "\n!!! SKIPPED %d tests, so these things are NOT tested:\n", len(s.skipped))
		for _, line := range s.skipped {
			fmt.Fprintln(s.out, "!!!   "+line)
		}
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skipped))
}
