#!/bin/sh
# Writes the assembly of package kernel, and the declarations that belong to it, from the Go programs in this folder.
set -e
cd "$(dirname "$0")"
for group in products lines matvec formats dequantize quantize; do
	go run . -group "$group" -pkg kernel -out "../${group}_amd64.s" -stubs "../${group}_amd64.go"
done
