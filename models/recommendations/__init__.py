"""What one should know about an advertiser, and do."""
