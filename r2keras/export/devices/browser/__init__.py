"""A web page that runs files on LiteRT.js, checks their outputs and measures them on the visitor's device."""
