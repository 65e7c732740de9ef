package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func version(c console, args []string) error {
	if shown, err := parseAll(c, "version", args, &struct{}{}); shown || err != nil {
		return err
	}
	revision, amd64 := "unknown revision", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value
			case "GOAMD64":
				amd64 = " GOAMD64=" + s.Value
			}
		}
	}
	_, err := fmt.Fprintf(c.out, "qlora %s, %s %s/%s%s\n", revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, amd64)
	return err
}
