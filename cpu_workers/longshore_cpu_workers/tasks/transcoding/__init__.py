"""One video in, several renditions and thumbnails out, by one ffmpeg that decodes once."""
