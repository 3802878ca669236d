"""Basics that every room may use: errors, types, config dictionaries, files, log, rules, array placement."""
