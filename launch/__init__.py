"""Starting and stopping a platform: storage, Ray, Serve, pools."""
