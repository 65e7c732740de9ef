#!/bin/sh
# Writes the assembly of package kernel, and the declarations that belong to it, from the Go programs in this folder.
set -e
cd "$(dirname "$0")"
asm=$(mktemp -d)
trap 'rm -rf "$asm"' EXIT
go build -o "$asm/asm" .
for group in products pairs lines matvec formats dequantize quantize limits elementwise elementary; do
	"$asm/asm" -group "$group" -pkg kernel -out "../${group}_amd64.s" -stubs "../${group}_amd64.go"
done
