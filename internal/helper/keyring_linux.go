package helper

// keyringPlausible tells whether there is a session bus, on which a keyring may be.
func keyringPlausible(getenv func(string) string) bool {
	return getenv("DBUS_SESSION_BUS_ADDRESS") != ""
}
