"""A policy pack: what no stack of this program may do, whatever its settings or its code say."""
