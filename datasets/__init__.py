"""Where raw events come from: the event and calendar contracts, readers, the simulator."""
