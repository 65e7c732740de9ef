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
	_, err := fmt.Fprintln(c.out, built())
	return err
}

// built says what this program was built from.
func built() string {
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
	return fmt.Sprintf("qlora %s, %s %s/%s%s", revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, amd64)
}
