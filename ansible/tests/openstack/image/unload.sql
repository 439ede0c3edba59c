DELETE a FROM standardattributes a JOIN ports p ON p.standard_attr_id = a.id JOIN networks n ON n.id = p.network_id WHERE n.name = 'load';
