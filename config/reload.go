package config

import (
	"reflect"
	"slices"
	"strings"
)

// live are the settings that a running gateway takes over from a changed file, by
// their field. All others take a restart.
var live = []string{"Origins", "Workloads"} // and the policy

// TakeRestart names the settings that next changes and that are read at the start
// only, as in ssh.listen.
func (g *Gateway) TakeRestart(next *Gateway) []string {
	return changed(reflect.ValueOf(*g), reflect.ValueOf(*next), "")
}

// changed names the exported fields in which a and b differ, those of a section by
// their own names.
func changed(a, b reflect.Value, section string) (names []string) {
	for i := range a.NumField() {
		field := a.Type().Field(i)
		if !field.IsExported() || section == "" && slices.Contains(live, field.Name) {
			continue
		}
		x, y := a.Field(i), b.Field(i)
		name := section + settingName(field.Name)
		switch {
		case reflect.DeepEqual(x.Interface(), y.Interface()):
		case section == "" && x.Kind() == reflect.Struct:
			names = append(names, changed(x, y, name+".")...)
		default:
			names = append(names, name)
		}
	}
	return names
}

// settingName is how the file writes the name of a field: MaxTunnels, max_tunnels.
func settingName(field string) string {
	var b strings.Builder
	for i := range len(field) {
		c := field[i]
		if isUpper(c) && i > 0 && (!isUpper(field[i-1]) || i+1 < len(field) && !isUpper(field[i+1])) {
			b.WriteByte('_')
		}
		b.WriteByte(c)
	}
	return strings.ToLower(b.String())
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
