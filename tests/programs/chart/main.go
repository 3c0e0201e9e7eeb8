// Renders packaging/chart as `helm template` does: Go's text/template with sprig's functions and helm's own `include` and
// `toYaml`. The documents go to standard output as one JSON list; a document that is no YAML is an error.
//
// main CHART [VALUES...]
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func must(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func read(path string) map[string]interface{} {
	text, err := os.ReadFile(path)
	must(err, path)
	values := map[string]interface{}{}
	must(yaml.UnmarshalStrict(text, &values), path)
	return values
}

// over puts what a user says over the defaults, map by map. A value that the chart does not know is an error: a typing error.
func over(base, more map[string]interface{}, at string) {
	for key, value := range more {
		old, known := base[key]
		if !known {
			must(fmt.Errorf("the chart has no value %s%s", at, key), "values")
		}
		below, isMap := value.(map[string]interface{})
		if into, both := old.(map[string]interface{}); isMap && both && len(into) > 0 {
			over(into, below, at+key+".")
			continue
		}
		base[key] = value
	}
}

func main() {
	chart := os.Args[1]
	values := read(filepath.Join(chart, "values.yaml"))
	for _, path := range os.Args[2:] {
		over(values, read(path), "")
	}
	about := read(filepath.Join(chart, "Chart.yaml"))
	data := map[string]interface{}{
		"Values":  values,
		"Chart":   map[string]interface{}{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
		"Release": map[string]interface{}{"Name": "soci", "Namespace": "kube-system"},
	}
	set := template.New("chart").Option("missingkey=error").Funcs(sprig.TxtFuncMap())
	set.Funcs(template.FuncMap{
		"include": func(name string, data interface{}) (string, error) {
			var text bytes.Buffer
			err := set.ExecuteTemplate(&text, name, data)
			return text.String(), err
		},
		"toYaml": func(value interface{}) (string, error) {
			text, err := yaml.Marshal(value)
			return strings.TrimSuffix(string(text), "\n"), err
		},
	})
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	must(err, chart)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(err, path)
		_, err = set.New(path).Parse(string(text))
		must(err, path)
	}
	documents := []interface{}{}
	for _, path := range paths {
		if strings.HasPrefix(filepath.Base(path), "_") {
			continue
		}
		var text bytes.Buffer
		must(set.ExecuteTemplate(&text, path, data), path)
		if !strings.HasSuffix(path, ".yaml") {
			continue
		}
		for _, part := range strings.Split(text.String(), "\n---\n") {
			document := map[string]interface{}{}
			must(yaml.UnmarshalStrict([]byte(part), &document), path+":\n"+part)
			documents = append(documents, document)
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(documents), "standard output")
}
