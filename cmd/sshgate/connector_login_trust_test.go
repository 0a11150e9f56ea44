package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A gateway that signs its own certificate is trusted by its pin: whoever gave none
// is told.
func TestLoginNamesThePin(t *testing.T) {
	gateway := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(gateway.Close)
	var out, errs bytes.Buffer
	args := []string{"connector", "login", "--gateway", gateway.Listener.Addr().String(), "--cert-dir", t.TempDir()}
	code := Run(t.Context(), args, strings.NewReader(""), &out, &errs)
	if code != 6 || !strings.Contains(errs.String(), "cannot be trusted") || !strings.Contains(errs.String(), `give --ca-pin with what "sshgated connector pin" prints`) {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
