// Command sbom prints the software bill of materials of a Go binary, as CycloneDX JSON: the modules and the toolchain that the linker
// recorded in it (debug/buildinfo), so it says what is inside rather than what a go.mod asks for. The same binary gives the same bytes.
//
//	sbom build/skydive v1.0.0 >skydive.cdx.json
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY VERSION")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, binary, version string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", binary, err)
	}
	encoder := cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON)
	encoder.SetPretty(true)
	return encoder.EncodeVersion(describe(info, sha256.Sum256(content), version), cdx.SpecVersion1_5)
}

// describe makes the bill: one component for the product, one for each module and for the standard library.
func describe(info *buildinfo.BuildInfo, sum [sha256.Size]byte, version string) *cdx.BOM {
	product := library("skydive", version)
	product.Type = cdx.ComponentTypeApplication
	product.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	product.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	var settings []cdx.Property
	for _, setting := range info.Settings {
		settings = append(settings, cdx.Property{Name: "go:build:" + setting.Key, Value: setting.Value})
	}
	product.Properties = &settings

	components := []cdx.Component{library("std", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, module := range info.Deps {
		used := cmp.Or(module.Replace, module)
		component := library(used.Path, used.Version)
		component.Properties = &[]cdx.Property{{Name: "go:sum", Value: used.Sum}} // of the module's files (go.sum), no digest CycloneDX knows
		components = append(components, component)
	}
	references := make([]string, len(components))
	for i, component := range components {
		references[i] = component.BOMRef
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.NameSpaceOID, sum[:], 8).URN()
	bom.Metadata = &cdx.Metadata{Component: &product}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: product.BOMRef, Dependencies: &references}}
	return bom
}

func library(path, version string) cdx.Component {
	url := "pkg:golang/" + path + "@" + version
	return cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
}
