package web

import (
	"io"
	"net/http"
)

// Landing returns the handler of a gateway without pages: the root says what
// this is, everything else is not found.
func Landing() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		// Fails only with the client's connection.
		_, _ = io.WriteString(w, "This is an sshgate gateway. Connectors and the ssh client talk to it; there is nothing to browse.\n")
	})
	return SecureHeaders(mux)
}

// SecureHeaders adds the headers that every answer to a browser should have: no
// sniffing, no framing, no scripts, no caching, no referrer, HTTPS for the next
// half year. A handler may replace them.
func SecureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Strict-Transport-Security", "max-age=15552000")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		next.ServeHTTP(w, r)
	})
}
