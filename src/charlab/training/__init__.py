"""Lightning modules, optimizers, schedules and callbacks."""
