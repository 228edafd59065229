"""Version 1 of the protocol: generated stubs, see the .proto files beside them."""
