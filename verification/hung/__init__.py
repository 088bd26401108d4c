"""Processes that are stopped or killed under load: is it seen, is it mended, is anything lost?"""
