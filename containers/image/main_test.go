package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// build runs the command on our own Containerfile, in a copy of the context with a program of its own.
func build(t *testing.T, edit func(context string), args ...string) (files map[string][]byte, all []byte, err error) {
	t.Helper()
	t.Run("build", func(t *testing.T) { // so that the working directory is as before at its end
		files, all, err = buildHere(t, edit, args...)
	})
	return files, all, err
}

func buildHere(t *testing.T, edit func(context string), args ...string) (files map[string][]byte, all []byte, err error) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	context := t.TempDir()
	for _, name := range []string{"Containerfile", "skydive.yml", "state"} {
		if out, err := os.ReadFile(filepath.Join(root, "containers", name)); err == nil {
			write(t, filepath.Join(context, "containers", name), string(out), 0o640)
		} else if err := os.CopyFS(filepath.Join(context, "containers", name), os.DirFS(filepath.Join(root, "containers", name))); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(context, "build/skydive"), "program", 0o700)
	if edit != nil {
		edit(context)
	}
	t.Chdir(context)
	var stdout bytes.Buffer
	if err := run(append(args, "-o", "out/image.tar", "containers/Containerfile"), &stdout); err != nil {
		return nil, nil, err
	}
	all, err = os.ReadFile("out/image.tar")
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	for _, e := range untar(t, all) {
		files[e.Name] = e.data
	}
	files["stdout"] = stdout.Bytes()
	return files, all, nil
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

type member struct {
	*tar.Header
	data []byte
}

func untar(t *testing.T, data []byte) (all []member) {
	t.Helper()
	if !bytes.HasSuffix(data, make([]byte, 1024)) { // archive/tar reads such a one, other readers do not
		t.Error("a tar without its end")
	}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, member{h, data})
	}
}

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// Both descriptions of the archive must lead to the same image, and every digest must be right.
func TestArchive(t *testing.T) {
	files, _, err := build(t, nil, "-version", "v1.2+3~rc1", "-platform", "linux/arm64", "-created", "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	const name = "localhost/skydive/skydive:v1.2-3-rc1"
	if !strings.HasPrefix(string(files["stdout"]), "out/image.tar: "+name+" linux/arm64, ") {
		t.Errorf("%s", files["stdout"])
	}
	type blob struct {
		MediaType, Digest string
		Size              int
		Platform          platform
		Annotations       map[string]string
	}
	take := func(b blob, mediaType string) []byte {
		t.Helper()
		data := files["blobs/"+strings.Replace(b.Digest, ":", "/", 1)]
		if sum := sha256.Sum256(data); b.Digest != "sha256:"+hex.EncodeToString(sum[:]) || b.Size != len(data) || b.MediaType != mediaType {
			t.Fatalf("%+v is not what it says: %d bytes", b, len(data))
		}
		return data
	}
	index := decode[struct{ Manifests []blob }](t, files["index.json"])
	top := index.Manifests[0]
	if len(index.Manifests) != 1 || top.Annotations["org.opencontainers.image.ref.name"] != name || top.Platform.Architecture != "arm64" {
		t.Errorf("%+v", index)
	}
	manifest := decode[struct {
		Config blob
		Layers []blob
	}](t, take(top, manifestType))
	docker := decode[[]struct {
		Config           string
		RepoTags, Layers []string
	}](t, files["manifest.json"])
	hash := func(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }
	if len(docker) != 1 || docker[0].RepoTags[0] != name || docker[0].Config != hash(manifest.Config.Digest) || docker[0].Layers[0] != hash(manifest.Layers[0].Digest) {
		t.Errorf("%+v is not %+v", docker, manifest)
	}
	config := decode[struct {
		Created          time.Time
		Architecture, OS string
		Config           imageConfig
		RootFS           struct {
			DiffIDs []string `json:"diff_ids"`
		}
		History []struct {
			EmptyLayer bool `json:"empty_layer"`
		}
	}](t, take(manifest.Config, configType))
	c := config.Config
	got := fmt.Sprint(config.OS, config.Architecture, config.Created.Unix(), c.User, c.Entrypoint, c.Cmd, c.Volumes, c.Env, c.Healthcheck.Test, c.Healthcheck.Interval, c.Healthcheck.Retries, c.Labels["org.opencontainers.image.version"], c.Labels["org.opencontainers.image.title"])
	if want := "linux arm64 1700000000 65532:65532 [/usr/bin/skydive --conf /etc/skydive.yml] [analyzer] map[/var/lib/skydive:{}] [" + defaultPath + " container=oci HOME=/] [CMD /usr/bin/skydive health] 10s 3v1.2+3~rc1 Skydive"; strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, udp := c.ExposedPorts["8082/udp"]; !udp || len(c.ExposedPorts) != 5 {
		t.Error(c.ExposedPorts)
	}
	layers := 0
	for _, h := range config.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != len(manifest.Layers) || layers != len(config.RootFS.DiffIDs) {
		t.Errorf("%d layers in the history, %d in the manifest: engines refuse that", layers, len(manifest.Layers))
	}
	unzip, err := gzip.NewReader(bytes.NewReader(take(manifest.Layers[0], layerType)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unzip)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(content); config.RootFS.DiffIDs[0] != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Error("the layer is not what the configuration says")
	}
	var list []string
	for _, e := range untar(t, content) {
		list = append(list, fmt.Sprintf("%s %o %d:%d", e.Name, e.Mode, e.Uid, e.Gid))
		if e.ModTime.Unix() != 1700000000 || e.Uname != "" {
			t.Errorf("%s: %v %q", e.Name, e.ModTime, e.Uname)
		}
	}
	want := "etc/ 755 0:0, etc/skydive.yml 644 0:0, usr/ 755 0:0, usr/bin/ 755 0:0, usr/bin/skydive 755 0:0, var/ 755 0:0, var/lib/ 755 0:0, " +
		"var/lib/skydive/ 755 65532:65532, var/lib/skydive/README 644 65532:65532"
	if got := strings.Join(list, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The same commit gives the same bytes, whoever builds it and when.
func TestSameBytes(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	_, first, err := build(t, nil, "-platform", "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	other := func(context string) {
		for _, name := range []string{"containers/skydive.yml", "build/skydive"} {
			if err := os.Chtimes(filepath.Join(context, name), time.Now(), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(context, "containers/skydive.yml"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, second, err := build(t, other, "-platform", "linux/amd64"); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v: %d and %d bytes that differ", err, len(first), len(second))
	}
	program := func(context string) { write(t, filepath.Join(context, "build/skydive"), "another", 0o755) }
	if _, third, err := build(t, program, "-platform", "linux/amd64"); err != nil || bytes.Equal(first, third) {
		t.Error("another program gives the same bytes:", err)
	}
}

func TestRefused(t *testing.T) {
	const from = "FROM scratch\n"
	for text, want := range map[string]string{
		"":                                     "first instruction is not FROM scratch",
		"FROM debian":                          "line 1: FROM: only one FROM scratch is known",
		from + "FROM scratch":                  "line 2: FROM",
		from + "RUN true":                      "line 2: RUN: unknown instruction",
		from + "LABEL a":                       `"a" is not NAME=VALUE`,
		from + "LABEL a=\"b":                   "a quote is not closed",
		from + "LABEL a=${B}":                  "is not an ARG before it",
		from + "LABEL a=$B":                    "$ is not known here",
		from + "LABEL a=b \\":                  "the last line is continued",
		from + "LABEL":                         "nothing follows",
		from + "ENV A B":                       `"A" is not NAME=VALUE`,
		from + "CMD skydive analyzer":          "is not in exec form",
		from + "HEALTHCHECK NONE":              "no CMD",
		from + "HEALTHCHECK --x=1 CMD [\"a\"]": "unknown option --x",
		from + "HEALTHCHECK --timeout=3 CMD [\"a\"]": "missing unit",
		from + "COPY a /b/":                          "with the whole name of TO",
		from + "COPY --chmod=1 a /b":                 "only [--chown=UID:GID] FROM /TO",
		from + "COPY --chown=skydive a /b":           "is not UID:GID",
		from + "COPY no/such /b":                     "copy no/such: ",
		from + "COPY build/link /b":                  "neither a file nor a directory",
	} {
		_, _, err := build(t, func(context string) {
			write(t, filepath.Join(context, "containers/Containerfile"), text, 0o600)
			if err := os.MkdirAll(filepath.Join(context, "build/link"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("x", filepath.Join(context, "build/link/x")); err != nil {
				t.Fatal(err)
			}
		}, "-created", "0")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for args, want := range map[string]string{
		"-created x":                 `-created "x" is not a number of seconds`,
		"-created 0 -platform linux": `-platform "linux" is not os/architecture`,
		"-created 0 -version +":      `no tag can be made of the version "+"`,
		"-created 0 -binary no/such": "copy build/skydive: ",
		"-created 0 containers/more": "want one Containerfile",
	} {
		if _, _, err := build(t, nil, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
