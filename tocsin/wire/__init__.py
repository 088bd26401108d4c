"""What goes over the wire, by topic: versioned structs."""
