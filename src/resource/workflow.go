package resource

import "fmt"

// Workflow is a JavaScript function that users call with parameters. All fields are in its JSON, always.
type Workflow struct {
	Identity
	Name        string
	Title       string
	Abstract    string
	Description string
	Parameters  []Parameter
	Source      string // the text of one function expression
}

// Parameter describes one argument of a workflow, for the form that asks for it.
type Parameter struct {
	Name        string
	Description string
	Type        string // string, number, integer, boolean, date, choice, node or edge
	Default     any
	Values      []Choice
}

// Choice is one possible value of a parameter.
type Choice struct {
	Value       any
	Description string
}

// Validate implements Resource.
func (w *Workflow) Validate() error {
	if w.Name == "" {
		return fault("Name", "zero value")
	}
	return nil
}

// Conflict refuses a second workflow of the same name.
func (w *Workflow) Conflict(other Resource) error {
	if o, ok := other.(*Workflow); ok && o.Name == w.Name {
		return fmt.Errorf("Duplicate workflow, name=%s", w.Name)
	}
	return nil
}
