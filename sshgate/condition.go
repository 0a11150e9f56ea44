package sshgate

// Condition is what a rule asks for beyond its selectors, written in a language
// that this package does not know.
type Condition interface {
	// Holds answers from the request alone. After an error, or where the answer is
	// neither yes nor no, a rule that allows does not match, and one that denies
	// does.
	Holds(Request) (bool, error)
	// String returns the condition as its author wrote it.
	String() string
}

// truth is what a selector or a rule says of a request: yes, no, or that it
// cannot be told, because a condition failed or a group of the policy is not
// there.
type truth int

const (
	no truth = iota
	unknown
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// not swaps yes and no.
func (t truth) not() truth { return yes - t }
