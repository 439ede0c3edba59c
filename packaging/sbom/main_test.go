package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func TestBillOfThisBinary(t *testing.T) {
	bill := func() []byte {
		var out bytes.Buffer
		if err := run(&out, os.Args[0], "v1.2.3"); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := bill()
	if !bytes.Equal(first, bill()) {
		t.Error("the same binary has two bills")
	}
	var bom cdx.BOM
	if err := json.Unmarshal(first, &bom); err != nil {
		t.Fatal(err)
	}
	if product := bom.Metadata.Component; product.Name != "skydive" || product.Version != "v1.2.3" || len(*product.Hashes) != 1 {
		t.Errorf("product: %+v", product)
	}
	for _, want := range []string{"std", "github.com/CycloneDX/cyclonedx-go"} {
		if !slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool { return c.Name == want && c.Version != "" }) {
			t.Errorf("no %s among %d components", want, len(*bom.Components))
		}
	}
	if listed := *(*bom.Dependencies)[0].Dependencies; len(listed) != len(*bom.Components) {
		t.Errorf("%d dependencies of %d components", len(listed), len(*bom.Components))
	}
}

func TestWhatIsNoGoBinaryIsRefused(t *testing.T) {
	if err := run(&bytes.Buffer{}, "main.go", "v1"); err == nil {
		t.Error("a text file has a bill")
	}
}
