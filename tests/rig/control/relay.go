package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// relay is a DERP server that can be restarted on its port, as the same server.
type relay struct {
	key  key.NodePrivate
	logf logger.Logf

	mu   sync.Mutex
	addr string
	derp *derpserver.Server
	http *httptest.Server
}

func newRelay(host string, logf logger.Logf) (*relay, error) {
	r := &relay{key: key.NewNode(), logf: logf, addr: net.JoinHostPort(host, "0")}
	return r, r.start()
}

// start serves behind TLS with a throw-away certificate; InsecureForTests in the map makes the
// nodes accept it.
func (r *relay) start() error {
	ln, err := net.Listen("tcp", r.addr)
	if err != nil {
		return err
	}
	r.addr = ln.Addr().String()
	r.derp = derpserver.New(r.key, r.logf)
	srv := httptest.NewUnstartedServer(derpserver.Handler(r.derp))
	srv.Listener.Close()
	srv.Listener = ln
	srv.Config.ErrorLog = logger.StdLogger(r.logf)
	// A non-nil empty map keeps HTTP/2 off: DERP takes the connection over.
	srv.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	srv.StartTLS()
	r.http = srv
	return nil
}

// restart ends every connection, refuses new ones for a while, and serves again.
func (r *relay) restart(pause time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.http.Listener.Close()
	r.derp.Close()
	r.http.CloseClientConnections()
	time.Sleep(pause)
	return r.start()
}

func (r *relay) port() int {
	return r.http.Listener.Addr().(*net.TCPAddr).Port
}
