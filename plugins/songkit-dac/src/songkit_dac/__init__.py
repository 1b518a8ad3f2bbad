"""Descript Audio Codec for songkit."""
