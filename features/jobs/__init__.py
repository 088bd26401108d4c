"""Jobs over the archive and the online state: backfill, and the replay of served samples."""
