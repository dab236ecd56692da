{{/*
The pod of a gateway or a worker. Takes a dict: root, role (gateway, worker), http (port for clients, if any), grace (seconds from the end of
the preStop hook to SIGKILL).
*/}}
{{- define "eco2.pod" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .role -}}
{{- $preStop := int (default 0 $own.preStopSeconds) -}}
metadata:
  labels:
    {{- include "eco2.labels" (list .role $root) | nindent 4 }}
  annotations:
    # A changed setting or secret causes a rollout.
    checksum/settings: {{ include (print $root.Template.BasePath "/settings.yaml") $root | sha256sum }}
    checksum/secret: {{ include (print $root.Template.BasePath "/secret.yaml") $root | sha256sum }}
    {{- with $own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "eco2.fullname" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  terminationGracePeriodSeconds: {{ add $preStop (ceil .grace | int) }}
  securityContext:
    {{- include "eco2.podSecurity" . | nindent 4 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      matchLabelKeys: [pod-template-hash]
      labelSelector:
        matchLabels:
          {{- include "eco2.selector" (list .role $root) | nindent 10 }}
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "eco2.image" (list $root $own.imageTag) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .role }}]
      envFrom:
        - configMapRef:
            name: {{ include "eco2.fullname" $root }}
        - secretRef:
            name: {{ include "eco2.secret" $root }}
            {{- if $root.Values.rabbitmq.cluster.enabled }}
            optional: true
            {{- end }}
      {{- if $root.Values.rabbitmq.cluster.enabled }}
      env:
        # The operator generates them from characters that need no escape in a URL.
        - name: RABBITMQ_USER
          valueFrom:
            secretKeyRef:
              name: {{ include "eco2.rabbitmq" $root }}-default-user
              key: username
        - name: RABBITMQ_PASSWORD
          valueFrom:
            secretKeyRef:
              name: {{ include "eco2.rabbitmq" $root }}-default-user
              key: password
        - name: ECO2_AMQP_URL
          value: amqp://$(RABBITMQ_USER):$(RABBITMQ_PASSWORD)@{{ include "eco2.rabbitmqNodes" $root }}/
      {{- end }}
      ports:
        {{- with .http }}
        - name: http
          containerPort: {{ . }}
        {{- end }}
        # Health and metrics; clients cannot reach it.
        - name: probes
          containerPort: 8001
      # Time for the interpreter to load everything, on a busy node.
      startupProbe:
        httpGet: { path: /healthz, port: probes }
        periodSeconds: 1
        failureThreshold: 60
      # Checks only that the event loop runs, so that neither load nor a slow broker kills a process.
      livenessProbe:
        httpGet: { path: /healthz, port: probes }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      # The broker is connected and the journal is read. A restart of the broker must not take all gateways from their
      # Service at once: they still show jobs, keep event streams open, and answer with advice. So 30 s.
      readinessProbe:
        httpGet: { path: /readyz, port: probes }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 15
      {{- if $preStop }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $preStop }}
      {{- end }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      securityContext:
        {{- include "eco2.containerSecurity" . | nindent 8 }}
{{- end }}

{{/* The two fulfil the Pod Security Standard "restricted", with a read-only root file system. */}}
{{- define "eco2.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "eco2.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
