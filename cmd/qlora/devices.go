package main

import (
	"encoding/json"
	"fmt"
)

// device is a line of the list.
type device struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	What      string `json:"what"`
}

// allDevices says what there is and why the rest is not.
var allDevices = []device{
	{"ref", true, "the specification in plain Go, one core"},
	{"cpu", false, "not part of this program yet"},
	{"cuda", false, "not part of this program yet"},
	{"vulkan", false, "not part of this program yet"},
}

func devices(c console, args []string) error {
	var o struct {
		JSON bool `name:"json" help:"print JSON"`
	}
	if shown, err := parseAll(c, "devices", args, &o); shown || err != nil {
		return err
	}
	if o.JSON {
		return json.NewEncoder(c.out).Encode(allDevices)
	}
	for _, d := range allDevices {
		mark := "no "
		if d.Available {
			mark = "yes"
		}
		fmt.Fprintf(c.out, "%-8s %s  %s\n", d.Name, mark, d.What)
	}
	return nil
}
