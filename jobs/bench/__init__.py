"""Models x worlds x seeds: trials that resume, and tables with paired intervals."""
