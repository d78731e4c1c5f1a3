"""The tables of the configuration, one class each; `cmdcm.core.config` puts them together."""
