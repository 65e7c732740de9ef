//go:build !amd64

package kernel

func accelerated() []*Set { return nil }
