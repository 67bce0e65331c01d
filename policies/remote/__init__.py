"""Policies on servers, openpi's and vla-eval's, and our own server of any policy."""
