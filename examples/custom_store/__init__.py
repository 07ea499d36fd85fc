"""Two stores of one's own: a ring buffer of measurements with numpy, and the mirror of a service that is sometimes down."""
