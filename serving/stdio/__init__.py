"""A helper for apps in other languages: lines of JSON-RPC 2.0 on standard input and output.

    edgeseq serve --stdio --bundle my-bundle

It needs none of the packages of the HTTP server. docs/guides/side-process.md has the protocol.
"""
