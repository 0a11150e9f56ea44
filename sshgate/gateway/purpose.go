package gateway

import "fmt"

// purposeHint tells a user whom nobody can ask how to say what it is for.
func purposeHint(a *access) string {
	return fmt.Sprintf(`say what you need %s for, in a terminal or with: ssh -o 'SetEnv=SSHGATE_PURPOSE="ticket 123"' ...`, a.target.Origin)
}
