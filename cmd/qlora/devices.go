package main

import (
	"encoding/json"
	"fmt"

	"qlora/accel"
)

// device is a line of the list.
type device struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	What      string `json:"what"`
}

// devices says what there is and why the rest is not.
func devices(c console, args []string) error {
	var o struct {
		JSON bool `name:"json" help:"print JSON"`
	}
	if shown, err := parseAll(c, "devices", args, &o); shown || err != nil {
		return err
	}
	var all []device
	for _, e := range accel.Entries {
		what, err := e.Find()
		if err != nil {
			what = err.Error()
		}
		all = append(all, device{e.Name, err == nil, what})
	}
	if o.JSON {
		return json.NewEncoder(c.out).Encode(all)
	}
	for _, d := range all {
		mark := "no "
		if d.Available {
			mark = "yes"
		}
		fmt.Fprintf(c.out, "%-8s %s  %s\n", d.Name, mark, d.What)
	}
	return nil
}
