package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkg/sftp"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
)

var (
	readOnly  = sshgate.Transfer{Read: true}
	writeOnly = sshgate.Transfer{Write: true}
)

// sftpPacket returns a packet with its length.
func sftpPacket(kind byte, id uint32, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, kind}
	b = binary.BigEndian.AppendUint32(b, id)
	for _, field := range fields {
		switch v := field.(type) {
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

var initPacket = []byte{0, 0, 0, 5, sftpInit, 0, 0, 0, 3}

func TestSFTPPackets(t *testing.T) {
	for name, test := range map[string]struct {
		packet      []byte
		read, write uint32 // the status where only that is allowed
	}{
		"open to read":             {sftpPacket(sftpOpen, 1, "x", 1, 0), 0, statusDenied},
		"open for nothing":         {sftpPacket(sftpOpen, 1, "x", 0, 0), 0, statusDenied},
		"open to write":            {sftpPacket(sftpOpen, 1, "x", 2, 0), statusDenied, 0},
		"open to create":           {sftpPacket(sftpOpen, 1, "x", 2|8|16, 0), statusDenied, 0},
		"open to append":           {sftpPacket(sftpOpen, 1, "x", 2|4, 0), statusDenied, 0},
		"open for both":            {sftpPacket(sftpOpen, 1, "x", 3, 0), statusDenied, statusDenied},
		"open, create and read":    {sftpPacket(sftpOpen, 1, "x", 1|8, 0), statusDenied, statusDenied},
		"open, truncate and read":  {sftpPacket(sftpOpen, 1, "x", 1|16, 0), statusDenied, statusDenied},
		"open, create alone":       {sftpPacket(sftpOpen, 1, "x", 8, 0), statusDenied, statusDenied},
		"open with a strange flag": {sftpPacket(sftpOpen, 1, "x", 1|64, 0), statusUnsupported, statusUnsupported},
		"open without attributes":  {sftpPacket(sftpOpen, 1, "x", 1), statusBadMessage, statusBadMessage},
		"open that is cut off":     {sftpPacket(sftpOpen, 1, 99), statusBadMessage, statusBadMessage},
		"open that overflows":      {sftpPacket(sftpOpen, 1, -1, 1, 0), statusBadMessage, statusBadMessage},
		"read":                     {sftpPacket(sftpRead, 1, "h", 0, 0, 100), 0, statusDenied},
		"write":                    {sftpPacket(sftpWrite, 1, "h", 0, 0, "data"), statusDenied, 0},
		"opendir":                  {sftpPacket(sftpOpendir, 1, "x"), 0, statusDenied},
		"readdir":                  {sftpPacket(sftpReaddir, 1, "h"), 0, statusDenied},
		"readlink":                 {sftpPacket(sftpReadlink, 1, "x"), 0, statusDenied},
		"stat":                     {sftpPacket(sftpStat, 1, "x"), 0, 0},
		"lstat":                    {sftpPacket(sftpLstat, 1, "x"), 0, 0},
		"fstat":                    {sftpPacket(sftpFstat, 1, "h"), 0, 0},
		"realpath":                 {sftpPacket(sftpRealpath, 1, "x"), 0, 0},
		"close":                    {sftpPacket(sftpClose, 1, "h"), 0, 0},
		"setstat":                  {sftpPacket(sftpSetstat, 1, "x", 0), statusDenied, 0},
		"fsetstat":                 {sftpPacket(sftpFsetstat, 1, "h", 0), statusDenied, 0},
		"remove":                   {sftpPacket(sftpRemove, 1, "x"), statusDenied, 0},
		"mkdir":                    {sftpPacket(sftpMkdir, 1, "x", 0), statusDenied, 0},
		"rmdir":                    {sftpPacket(sftpRmdir, 1, "x"), statusDenied, 0},
		"rename":                   {sftpPacket(sftpRename, 1, "x", "y"), statusDenied, 0},
		"symlink":                  {sftpPacket(sftpSymlink, 1, "x", "y"), statusDenied, 0},
		"posix-rename":             {sftpPacket(sftpExtended, 1, "posix-rename@openssh.com", "x", "y"), statusDenied, 0},
		"hardlink":                 {sftpPacket(sftpExtended, 1, "hardlink@openssh.com", "x", "y"), statusDenied, 0},
		"lsetstat":                 {sftpPacket(sftpExtended, 1, "lsetstat@openssh.com", "x", 0), statusDenied, 0},
		"fsync":                    {sftpPacket(sftpExtended, 1, "fsync@openssh.com", "h"), statusDenied, 0},
		"copy-data":                {sftpPacket(sftpExtended, 1, "copy-data", "h", 0, 0, 0, 0, "g", 0, 0), statusDenied, statusDenied},
		"limits":                   {sftpPacket(sftpExtended, 1, "limits@openssh.com"), 0, 0},
		"expand-path":              {sftpPacket(sftpExtended, 1, "expand-path@openssh.com", "~"), 0, 0},
		"another extension":        {sftpPacket(sftpExtended, 1, "copy-file", "x", "y", 0), statusUnsupported, statusUnsupported},
		"an extension in capitals": {sftpPacket(sftpExtended, 1, "LIMITS@openssh.com"), statusUnsupported, statusUnsupported},
		"an extension without one": {sftpPacket(sftpExtended, 1), statusBadMessage, statusBadMessage},
		"a link of version 6":      {sftpPacket(21, 1, "x", "y"), statusUnsupported, statusUnsupported},
		"an answer":                {sftpPacket(sftpStatus, 1, 0), statusUnsupported, statusUnsupported},
	} {
		for files, want := range map[sshgate.Transfer]uint32{readOnly: test.read, writeOnly: test.write} {
			f := &sftpFilter{files: files}
			if got, _, err := f.judge(test.packet[4:]); got != want || err != nil {
				t.Errorf("%s with %+v: status %d, %v; want %d", name, files, got, err, want)
			}
		}
	}
}

func TestNotSFTP(t *testing.T) {
	for name, stream := range map[string][]byte{
		"no init":             sftpPacket(sftpStat, 1, "x"),
		"a second init":       append(bytes.Clone(initPacket), initPacket...),
		"an old version":      {0, 0, 0, 5, sftpInit, 0, 0, 0, 2},
		"no version":          {0, 0, 0, 1, sftpInit},
		"a packet without id": append(bytes.Clone(initPacket), 0, 0, 0, 4, sftpClose, 0, 0, 0),
		"an empty packet":     append(bytes.Clone(initPacket), 0, 0, 0, 0),
		"a packet too large":  append(bytes.Clone(initPacket), 0, 4, 0, 1),
		"a shell":             []byte("rm -rf /\n"),
	} {
		f := &sftpFilter{files: readOnly, toClient: io.Discard}
		var origin bytes.Buffer
		var n atomic.Int64
		if err := f.fromClient(&origin, bytes.NewReader(stream), &n); !errors.Is(err, errNotSFTP) {
			t.Errorf("%s: %v", name, err)
		}
		if got := origin.Bytes(); len(got) > 0 && !bytes.Equal(got, initPacket) {
			t.Errorf("%s: the origin got %x", name, got)
		}
	}
	cut := append(bytes.Clone(initPacket), sftpPacket(sftpStat, 1, "x")[:7]...)
	f := &sftpFilter{files: readOnly}
	var origin bytes.Buffer
	var n atomic.Int64
	if err := f.fromClient(&origin, bytes.NewReader(cut), &n); !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(origin.Bytes(), initPacket) {
		t.Errorf("a packet cut off: %v, the origin got %x", err, origin.Bytes())
	}
	for _, answer := range [][]byte{{0, 0, 0, 5, sftpVersion, 0, 0, 0, 6}, sftpPacket(sftpStatus, 1, 0), {0, 4, 0, 1, 0}} {
		f := &sftpFilter{files: readOnly, toClient: io.Discard}
		if err := f.fromOrigin(bytes.NewReader(answer), &n); !errors.Is(err, errNotSFTP) {
			t.Errorf("the origin's %x: %v", answer, err)
		}
	}
}

func TestNewerVersionsAreNotAgreedOn(t *testing.T) {
	stream := []byte{0, 0, 0, 9, sftpInit, 0, 0, 0, 6, 'm', 'o', 'r', 'e'}
	var origin bytes.Buffer
	var n atomic.Int64
	f := &sftpFilter{files: readOnly}
	if err := f.fromClient(&origin, bytes.NewReader(stream), &n); err != nil || !bytes.Equal(origin.Bytes(), initPacket) {
		t.Errorf("%v, the origin got %x", err, origin.Bytes())
	}
}

// duplex is one end of a pair of pipes.
type duplex struct {
	io.Reader
	io.WriteCloser
}

// throughFilter joins a real client to a real server, the filter between them.
func throughFilter(t testing.TB, files sshgate.Transfer, dir string) *sftp.Client {
	t.Helper()
	clientIn, toClient := io.Pipe()
	fromClient, clientOut := io.Pipe()
	serverIn, toServer := io.Pipe()
	fromServer, serverOut := io.Pipe()
	server, err := sftp.NewServer(duplex{serverIn, serverOut}, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		t.Fatal(err)
	}
	f := &sftpFilter{files: files, toClient: toClient}
	var all sync.WaitGroup
	var in, out atomic.Int64
	all.Go(func() { _ = server.Serve(); serverOut.Close() })
	all.Go(func() {
		if err := f.fromClient(toServer, fromClient, &in); err != nil {
			t.Error(err)
		}
		toServer.Close()
	})
	all.Go(func() {
		if err := f.fromOrigin(fromServer, &out); err != nil {
			t.Error(err)
		}
		toClient.Close()
	})
	client, err := sftp.NewClientPipe(clientIn, clientOut)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); all.Wait() })
	return client
}

func TestSFTPBetweenRealPeers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	content := bytes.Repeat([]byte("0123456789"), 200_000)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	client := throughFilter(t, readOnly, dir)
	var got bytes.Buffer
	remote, err := client.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes were read, %v", got.Len(), err)
	}
	remote.Close()
	if entries, err := client.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	for name, attempt := range map[string]func() error{
		"create":       func() error { _, err := client.Create(filepath.Join(dir, "new")); return err },
		"append":       func() error { _, err := client.OpenFile(file, os.O_RDWR|os.O_APPEND); return err },
		"remove":       func() error { return client.Remove(file) },
		"rename":       func() error { return client.Rename(file, file+"2") },
		"posix-rename": func() error { return client.PosixRename(file, file+"2") },
		"link":         func() error { return client.Link(file, file+"2") },
		"symlink":      func() error { return client.Symlink(file, file+"2") },
		"chmod":        func() error { return client.Chmod(file, 0o777) },
		"truncate":     func() error { return client.Truncate(file, 0) },
		"mkdir":        func() error { return client.Mkdir(file + "2") },
	} {
		if err := attempt(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there are %v, %v", entries, err)
	}

	client = throughFilter(t, writeOnly, dir)
	upload, err := client.OpenFile(filepath.Join(dir, "up"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := upload.ReadFrom(bytes.NewReader(content)); err != nil {
		t.Error(err)
	}
	upload.Close()
	if got, err := os.ReadFile(filepath.Join(dir, "up")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes were written, %v", len(got), err)
	}
	if _, err := client.Open(file); !errors.Is(err, os.ErrPermission) {
		t.Errorf("open: %v", err)
	}
	if _, err := client.ReadDir(dir); !errors.Is(err, os.ErrPermission) {
		t.Errorf("readdir: %v", err)
	}
}

// FuzzSFTP sends any bytes as a client that may only read, and checks that what
// the origin gets are whole packets none of which writes.
func FuzzSFTP(f *testing.F) {
	f.Add(initPacket)
	f.Add(append(bytes.Clone(initPacket), sftpPacket(sftpOpen, 7, "x", 1, 0)...))
	f.Add(append(bytes.Clone(initPacket), sftpPacket(sftpWrite, 7, "h", 0, 0, "data")...))
	f.Add(append(bytes.Clone(initPacket), sftpPacket(sftpExtended, 7, "copy-data", "h")...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var origin, client bytes.Buffer
		var n atomic.Int64
		filter := &sftpFilter{files: readOnly, toClient: &client}
		_ = filter.fromClient(&origin, bytes.NewReader(stream), &n)
		for first, rest := true, origin.Bytes(); len(rest) > 0; first = false {
			length := int(binary.BigEndian.Uint32(rest))
			packet := rest[4 : 4+length]
			rest = rest[4+length:]
			if first {
				if packet[0] != sftpInit {
					t.Fatalf("the first packet is %x", packet)
				}
				continue
			}
			switch packet[0] {
			case sftpClose, sftpRead, sftpLstat, sftpFstat, sftpOpendir, sftpReaddir, sftpRealpath, sftpStat, sftpReadlink:
			case sftpOpen:
				path := int(binary.BigEndian.Uint32(packet[5:]))
				if flags := binary.BigEndian.Uint32(packet[9+path:]); flags > 1 {
					t.Fatalf("an open with flags %x", flags)
				}
			case sftpExtended:
				name := int(binary.BigEndian.Uint32(packet[5:]))
				if w := sftpExtensions[string(packet[9:9+name])]; w != neither && w != reads {
					t.Fatalf("the extension %q", packet[9:9+name])
				}
			default:
				t.Fatalf("a packet of type %d", packet[0])
			}
		}
		for rest := client.Bytes(); len(rest) > 0; {
			length := int(binary.BigEndian.Uint32(rest))
			if rest[4] != sftpStatus {
				t.Fatalf("the client got %x", rest)
			}
			rest = rest[4+length:]
		}
	})
}

// endless repeats a stream after its beginning.
type endless struct {
	begin, cycle []byte
	left, at     int
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.begin) > 0 {
		n := copy(p, e.begin)
		e.begin = e.begin[n:]
		return n, nil
	}
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, e.cycle[e.at:])
	e.at = (e.at + n) % len(e.cycle)
	if e.at == 0 {
		e.left--
	}
	return n, nil
}

func BenchmarkUpload(b *testing.B) {
	write := sftpPacket(sftpWrite, 1, "hand", 0, 0, string(make([]byte, 32<<10)))
	b.Run("filtered", func(b *testing.B) {
		b.SetBytes(int64(len(write)))
		b.ReportAllocs()
		var n atomic.Int64
		f := &sftpFilter{files: writeOnly, toClient: io.Discard}
		if err := f.fromClient(io.Discard, &endless{begin: bytes.Clone(initPacket), cycle: write, left: b.N}, &n); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("unparsed", func(b *testing.B) {
		b.SetBytes(int64(len(write)))
		b.ReportAllocs()
		var n atomic.Int64
		if err := endtoend.Copy(io.Discard, &endless{cycle: write, left: b.N}, &n); err != nil {
			b.Fatal(err)
		}
	})
}
