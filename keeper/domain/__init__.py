"""The vocabulary: units, fixed-point arithmetic, the values that flow, the outcomes and the ports. Pure."""
