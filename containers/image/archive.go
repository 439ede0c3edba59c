package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a file or, without data, a directory of the layer.
type entry struct {
	data     []byte
	mode     int64
	uid, gid int
}

// layer writes the files that the steps copy, by name. Everything that differs between machines is left out: times, owners, and of the
// modes all but whether a file can be executed.
func layer(steps []copyStep, open func(string) fs.FS, modified time.Time) ([]byte, error) {
	entries := map[string]entry{}
	for _, step := range steps {
		root := open(step.from)
		err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			to := strings.TrimPrefix(path.Join(step.to, name), "/")
			if d.IsDir() {
				entries[to] = entry{nil, 0o755, step.uid, step.gid}
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is neither a file nor a directory", name)
			}
			data, err := fs.ReadFile(root, name)
			e := entry{data, 0o644, step.uid, step.gid}
			if info.Mode()&0o111 != 0 {
				e.mode = 0o755
			}
			if data == nil {
				e.data = []byte{}
			}
			entries[to] = e
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("copy %s: %w", step.from, err)
		}
	}
	for name := range maps.Clone(entries) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := entries[dir]; !ok {
				entries[dir] = entry{mode: 0o755}
			}
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(e.data)), Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: modified}
		if e.data == nil {
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// single is a file system with one file, as its own root.
type single struct{ file string }

func (s single) Open(name string) (fs.File, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return os.Open(s.file)
}

// source opens what a step copies: a directory of the context, or one file.
func source(name string) fs.FS {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return os.DirFS(name)
	}
	return single{filepath.Clean(name)}
}

// platform is os/architecture[/variant].
type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// The media types are Docker's, also in the OCI layout, which allows them: OCI images have no health check.
const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// archive returns a tar that is an OCI layout (index.json) and what "docker save" writes (manifest.json), of the same blobs.
func archive(r *recipe, content []byte, name string, p platform, created time.Time) ([]byte, error) {
	var zipped bytes.Buffer
	zip, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zip.Write(content); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	blob := func(mediaType string, data []byte) descriptor {
		sum := sha256.Sum256(data)
		files["blobs/sha256/"+hex.EncodeToString(sum[:])] = data
		return descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(data)}
	}
	encode := func(v any) []byte {
		data, encodeErr := json.Marshal(v)
		err = cmp.Or(err, encodeErr)
		return data
	}
	type history struct {
		Created    time.Time `json:"created"`
		CreatedBy  string    `json:"created_by"`
		EmptyLayer bool      `json:"empty_layer,omitempty"`
	}
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	sum := sha256.Sum256(content)
	lines := []history{{created, "COPY", false}} // all of them in one layer
	for _, line := range r.lines {
		lines = append(lines, history{created, line, true})
	}
	config := blob(configType, encode(struct {
		Created time.Time `json:"created"`
		platform
		Config  imageConfig `json:"config"`
		RootFS  rootfs      `json:"rootfs"`
		History []history   `json:"history"`
	}{created, p, r.config, rootfs{"layers", []string{"sha256:" + hex.EncodeToString(sum[:])}}, lines}))
	layer := blob(layerType, zipped.Bytes())
	manifest := blob(manifestType, encode(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, manifestType, config, []descriptor{layer}}))
	manifest.Platform = &p
	// The first is read by podman and skopeo, the second by containerd.
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
	file := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	files["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	files["index.json"] = encode(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, indexType, []descriptor{manifest}})
	files["manifest.json"] = encode([]any{struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{file(config), []string{name}, []string{file(layer)}}})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: created}); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644, ModTime: created}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return out.Bytes(), err
}
