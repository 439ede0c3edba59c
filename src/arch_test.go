// Package src holds no code of its own: only this test, which keeps the shape of the tree.
package src

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports is the import table of the project: each package, and what of ours it may import. An arrow that is not here is a question
// for review. "*" means everything.
var imports = map[string]string{
	// values
	"bpf":      "",
	"field":    "",
	"flow":     "field",
	"graph":    "field",
	"gremlin":  "field",
	"resource": "bpf gremlin",
	"wire":     "field flow graph resource",
	"config":   "",
	// outside world
	"archive/disk":  "field flow graph",
	"netns":         "",
	"ws":            "wire",
	"etcd":          "",
	"auth":          "",
	"auth/keystone": "auth",
	"tlsconf":       "",
	"rbac":          "",
	"ovs":           "",
	"ovs/ovstest":   "", // a switch for tests
	"openflow":      "",
	// questions
	"query":  "bpf field flow graph gremlin",
	"pubsub": "field graph gremlin query wire ws",
	// sources
	"probe":           "field graph",
	"probe/netlink":   "probe field graph netns",
	"probe/ovsdb":     "probe field graph ovs openflow",
	"probe/neutron":   "probe field graph",
	"probe/ovn":       "probe field graph ovs",
	"probe/fabric":    "probe field graph",
	"probe/peering":   "probe field graph",
	"probe/probetest": "field graph probe",
	"capture":         "bpf field flow netns resource",
	"capture/socket":  "bpf capture field flow netns",
	"capture/sampled": "bpf capture field flow netns resource",
	"capture/mirror":  "bpf capture capture/sampled capture/socket field flow netns ovs",
	"inject":          "field netns resource",
	// services
	"agent":    "capture field flow graph inject probe resource wire ws",
	"analyzer": "field flow graph pubsub query wire ws", // an agent is a publisher with an owner: queue and session are the same
	"ondemand": "field graph gremlin query resource wire",
	"api":      "field flow graph gremlin query resource",
	"client":   "field flow graph gremlin resource wire ws",
	"doctor":   "client tlsconf wire ws",
	// ends
	"cmd/skydive": "*",
	"e2e":         "client",
	"e2e/bench":   "client e2e flow",
}

// leaves names the one place (or the few) where each heavy or user-chosen dependency may be used, so that it can be replaced.
var leaves = map[string]string{
	"github.com/spf13/viper":                 "config",
	"github.com/urfave/cli":                  "cmd/skydive",
	"github.com/casbin/casbin":               "rbac",
	"go.etcd.io/etcd":                        "etcd",
	"go.etcd.io/raft":                        "etcd",
	"go.etcd.io/bbolt":                       "etcd",
	"github.com/coder/websocket":             "ws",
	"github.com/vishvananda/netlink":         "probe/netlink",
	"github.com/go-json-experiment/json":     "field flow graph wire",
	"google.golang.org/protobuf":             "flow wire",
	"github.com/google/uuid":                 "graph resource",
	"golang.org/x/crypto":                    "auth",
	"github.com/prometheus/client_golang":    "*",
	"gopkg.in/yaml.v3":                       "config resource cmd/skydive",
	"github.com/fsnotify/fsnotify":           "netns",
	"golang.org/x/sys":                       "*",
	"github.com/prometheus/client_model":     "*",
	"github.com/gophercloud/gophercloud":     "auth/keystone probe/neutron",
	"github.com/olivere/elastic":             "",
	"github.com/google/gopacket":             "flow capture/sampled capture/socket inject", // in capture/sampled as an oracle of tests
	"github.com/cockroachdb/pebble":          "archive/disk",
	"github.com/cilium/ebpf":                 "",
	"google.golang.org/grpc":                 "",
	"github.com/sirupsen/logrus":             "",
	"go.uber.org/zap":                        "etcd",
	"github.com/stretchr/testify":            "",
	"github.com/go-viper/mapstructure":       "config",
	"github.com/grpc-ecosystem/grpc-gateway": "",
}

const module = "skydive/src/"

func allowed(list, pkg string) bool { return list == "*" || slices.Contains(strings.Fields(list), pkg) }

func TestEachPackageImportsOnlyWhatTheTableAllows(t *testing.T) {
	eachPackage(t, func(pkg, file string, f *ast.File) {
		may, known := imports[pkg]
		if !known {
			t.Errorf("package %s is not in the import table of src/arch_test.go", pkg)
			return
		}
		isTest := strings.HasSuffix(file, "_test.go")
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			if ours, ok := strings.CutPrefix(imp, module); ok {
				if spec.Name != nil {
					t.Errorf("%s: import alias %s: package names are unique, so that none is needed", file, spec.Name.Name)
				}
				if ours != pkg && !isTest && !allowed(may, ours) {
					t.Errorf("%s: package %s may not import %s (may: %s)", file, pkg, ours, may)
				}
			}
			for dep, where := range leaves {
				if (imp == dep || strings.HasPrefix(imp, dep+"/")) && !allowed(where, pkg) {
					t.Errorf("%s: %s belongs to %q only", file, dep, where)
				}
			}
		}
	})
}

// refused are names that say nothing about what is inside.
var refused = regexp.MustCompile(`^(base|common|core|helpers?|lib|manager|misc|models?|pkg|shared|types?|utils?)$`)

func TestEachPackageSaysWhatItIs(t *testing.T) {
	comments := map[string]int{}
	eachPackage(t, func(pkg, file string, f *ast.File) {
		comments[pkg] += 0
		if refused.MatchString(path.Base(pkg)) {
			t.Errorf("package name %s says nothing", pkg)
		}
		if f.Doc != nil && !strings.HasSuffix(file, "_test.go") {
			comments[pkg]++
		}
	})
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want one", pkg, n)
		}
	}
}

func TestNoInitNoSleep(t *testing.T) {
	eachPackage(t, func(pkg, file string, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: init() hides what runs; wire it in cmd/skydive", file)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep; wait for a condition", file)
				}
			}
			return true
		})
	})
}

// eachPackage calls f for each Go file below src, with its package as the table names it.
func eachPackage(t *testing.T, f func(pkg, file string, syntax *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		pkg := filepath.ToSlash(filepath.Dir(name))
		if pkg == "." || !strings.HasSuffix(name, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		f(pkg, name, syntax)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
