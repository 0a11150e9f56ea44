package install

import "strings"

// contextLines is how many lines a difference shows around what differs.
const contextLines = 3

// diff is how the lines of a text differ from another's: "-" those that go, "+" those
// that come, and some around them. It is for short texts.
func diff(before, after string) string {
	a, b := lines(before), lines(after)
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, " "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "-"+a[i])
			i++
		default:
			out = append(out, "+"+b[j])
			j++
		}
	}
	return elide(out)
}

func lines(text string) []string {
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// elide leaves out what is far from a difference.
func elide(all []string) string {
	near := make([]bool, len(all))
	for i, line := range all {
		if line[0] != ' ' {
			for j := max(0, i-contextLines); j <= min(len(all)-1, i+contextLines); j++ {
				near[j] = true
			}
		}
	}
	var out strings.Builder
	for i, line := range all {
		switch {
		case near[i]:
			out.WriteString(line + "\n")
		case i == 0 || near[i-1]:
			out.WriteString("...\n")
		}
	}
	return out.String()
}
