//go:build !linux

package helper

// keyringPlausible tells whether the system has a keyring: it does.
func keyringPlausible(func(string) string) bool { return true }
