"""The search for hyper-parameters: `cmdcm tune`."""
