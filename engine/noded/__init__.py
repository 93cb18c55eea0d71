"""The node daemon: owns a GPU server's weights and engine processes (docs/interfaces.md, section 7)."""
